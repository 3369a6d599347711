"""Pictures: checked, made small by a process of their own, put into the day's folder. (The process that decodes what a
stranger sent imports this package: nothing is imported here.)"""

@echo off
rem Runs the Gradle of gradle\wrapper\gradle-wrapper.properties; see gradlew.
cd /d "%~dp0"
set JAR=gradle\wrapper\gradle-wrapper.jar
if exist "%JAR%" (
  java -cp "%JAR%" org.gradle.wrapper.GradleWrapperMain %*
) else (
  gradle %*
)
